-- Artifacts: collections of versions, what is in them, who made and used them. AUTOINCREMENT where clients keep ids:
-- the id of something deleted must never come to mean another thing.
CREATE TABLE artifact_types (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  project_id INTEGER NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
  name TEXT NOT NULL,
  description TEXT,
  created_ms INTEGER NOT NULL,
  UNIQUE (project_id, name)
) STRICT;

-- A sequence owns its versions, a portfolio links to versions of sequences. `versions` counts all that ever were, so
-- a version number is never given twice.
CREATE TABLE artifact_collections (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  project_id INTEGER NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
  type_id INTEGER NOT NULL REFERENCES artifact_types (id) ON DELETE CASCADE,
  kind TEXT NOT NULL CHECK (kind IN ('SEQUENCE', 'PORTFOLIO')),
  name TEXT NOT NULL,
  description TEXT,
  state TEXT NOT NULL DEFAULT 'READY' CHECK (state IN ('READY', 'DELETED')),
  versions INTEGER NOT NULL DEFAULT 0,
  created_ms INTEGER NOT NULL,
  updated_ms INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX artifact_collections_by_name ON artifact_collections (project_id, name) WHERE state = 'READY';
CREATE INDEX artifact_collections_by_type ON artifact_collections (type_id);

-- PENDING until the manifest and every file are there, then COMMITTED with a version, in the end DELETED.
CREATE TABLE artifacts (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  sequence_id INTEGER NOT NULL REFERENCES artifact_collections (id) ON DELETE CASCADE,
  state TEXT NOT NULL DEFAULT 'PENDING' CHECK (state IN ('PENDING', 'COMMITTED', 'DELETED')),
  version_index INTEGER,
  digest TEXT NOT NULL,
  distributed_id TEXT,
  description TEXT,
  metadata TEXT,
  ttl_seconds INTEGER, -- NULL: inherited, which here means none
  expires_ms INTEGER, -- of a committed version; NULL: never
  history_step INTEGER,
  run_id INTEGER REFERENCES runs (id) ON DELETE SET NULL,
  user_id INTEGER NOT NULL REFERENCES users (id),
  wanted TEXT NOT NULL DEFAULT '{}', -- aliases and tags that the commit will give
  manifest_sha256 TEXT REFERENCES blobs (sha256),
  size INTEGER NOT NULL DEFAULT 0,
  file_count INTEGER NOT NULL DEFAULT 0,
  created_ms INTEGER NOT NULL,
  updated_ms INTEGER NOT NULL,
  CHECK ((state = 'COMMITTED') <= (version_index IS NOT NULL)),
  UNIQUE (sequence_id, version_index)
) STRICT;
CREATE INDEX artifacts_by_digest ON artifacts (sequence_id, digest);
CREATE INDEX artifacts_by_distribution ON artifacts (distributed_id) WHERE distributed_id IS NOT NULL;
CREATE INDEX artifacts_by_run ON artifacts (run_id);
CREATE INDEX artifacts_by_manifest ON artifacts (manifest_sha256);
CREATE INDEX artifacts_to_expire ON artifacts (expires_ms) WHERE expires_ms IS NOT NULL;
CREATE INDEX artifacts_pending ON artifacts (created_ms) WHERE state = 'PENDING';

-- The ids that clients give before the server has one.
CREATE TABLE artifact_clients (
  client_id TEXT PRIMARY KEY,
  artifact_id INTEGER NOT NULL REFERENCES artifacts (id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX artifact_clients_by_artifact ON artifact_clients (artifact_id);

-- Uploaded manifests of a pending artifact; several runs contribute one patch each to a distributed one.
CREATE TABLE artifact_manifests (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  artifact_id INTEGER NOT NULL REFERENCES artifacts (id) ON DELETE CASCADE,
  type TEXT NOT NULL CHECK (type IN ('FULL', 'PATCH', 'INCREMENTAL')),
  name TEXT NOT NULL,
  run TEXT NOT NULL,
  digest TEXT NOT NULL,
  base_id INTEGER REFERENCES artifacts (id) ON DELETE SET NULL,
  created_ms INTEGER NOT NULL,
  UNIQUE (artifact_id, type, name, run)
) STRICT;
CREATE INDEX artifact_manifests_by_base ON artifact_manifests (base_id);

-- What is in a committed version: a file has a content here, a reference lies elsewhere.
CREATE TABLE artifact_entries (
  artifact_id INTEGER NOT NULL REFERENCES artifacts (id) ON DELETE CASCADE,
  path TEXT NOT NULL,
  digest TEXT NOT NULL,
  size INTEGER NOT NULL,
  sha256 TEXT REFERENCES blobs (sha256),
  ref TEXT,
  birth_id INTEGER NOT NULL,
  PRIMARY KEY (artifact_id, path),
  CHECK ((sha256 IS NULL) = (ref IS NOT NULL))
) STRICT, WITHOUT ROWID;
CREATE INDEX artifact_entries_by_blob ON artifact_entries (sha256);
CREATE INDEX artifact_entries_by_digest ON artifact_entries (digest);

CREATE TABLE artifact_memberships (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  collection_id INTEGER NOT NULL REFERENCES artifact_collections (id) ON DELETE CASCADE,
  artifact_id INTEGER NOT NULL REFERENCES artifacts (id) ON DELETE CASCADE,
  version_index INTEGER NOT NULL,
  created_ms INTEGER NOT NULL,
  UNIQUE (collection_id, version_index),
  UNIQUE (collection_id, artifact_id)
) STRICT;
CREATE INDEX artifact_memberships_by_artifact ON artifact_memberships (artifact_id);

CREATE TABLE artifact_aliases (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  collection_id INTEGER NOT NULL REFERENCES artifact_collections (id) ON DELETE CASCADE,
  alias TEXT NOT NULL,
  membership_id INTEGER NOT NULL REFERENCES artifact_memberships (id) ON DELETE CASCADE,
  UNIQUE (collection_id, alias)
) STRICT;
CREATE INDEX artifact_aliases_by_membership ON artifact_aliases (membership_id);

CREATE TABLE artifact_tags (
  artifact_id INTEGER NOT NULL REFERENCES artifacts (id) ON DELETE CASCADE,
  tag TEXT NOT NULL,
  PRIMARY KEY (artifact_id, tag)
) STRICT, WITHOUT ROWID;

CREATE TABLE artifact_collection_tags (
  collection_id INTEGER NOT NULL REFERENCES artifact_collections (id) ON DELETE CASCADE,
  tag TEXT NOT NULL,
  PRIMARY KEY (collection_id, tag)
) STRICT, WITHOUT ROWID;

CREATE TABLE artifact_uses (
  run_id INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
  artifact_id INTEGER NOT NULL REFERENCES artifacts (id) ON DELETE CASCADE,
  used_as TEXT,
  created_ms INTEGER NOT NULL,
  PRIMARY KEY (run_id, artifact_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX artifact_uses_by_artifact ON artifact_uses (artifact_id);

-- What a registry says beyond a project; the types that it takes are the project's artifact types.
CREATE TABLE registries (
  project_id INTEGER PRIMARY KEY REFERENCES projects (id) ON DELETE CASCADE,
  all_types INTEGER NOT NULL DEFAULT 1,
  updated_ms INTEGER NOT NULL
) STRICT;

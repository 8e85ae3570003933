-- Who may do what, and contents.
CREATE TABLE organizations (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  entity_id INTEGER NOT NULL REFERENCES entities (id)
) STRICT;

-- Whoever can own projects: a user, a team, or an organisation (whose projects are registries).
CREATE TABLE entities (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  kind TEXT NOT NULL CHECK (kind IN ('user', 'team', 'organization')),
  created_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE users (
  id INTEGER PRIMARY KEY,
  username TEXT NOT NULL UNIQUE,
  name TEXT NOT NULL,
  email TEXT NOT NULL,
  admin INTEGER NOT NULL DEFAULT 0,
  entity_id INTEGER NOT NULL REFERENCES entities (id),
  created_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE members (
  entity_id INTEGER NOT NULL REFERENCES entities (id),
  user_id INTEGER NOT NULL REFERENCES users (id),
  admin INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (entity_id, user_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX members_of_user ON members (user_id);

CREATE TABLE api_keys (
  id INTEGER PRIMARY KEY,
  user_id INTEGER NOT NULL REFERENCES users (id),
  hash TEXT NOT NULL UNIQUE, -- SHA-256 of a random key: nothing to guess, so nothing slower is needed
  hint TEXT NOT NULL,
  description TEXT NOT NULL DEFAULT '',
  created_ms INTEGER NOT NULL
) STRICT;

-- Contents on disk, by digest. Whatever refers to one has a foreign key to it: a row that can be deleted is garbage.
CREATE TABLE blobs (
  sha256 TEXT PRIMARY KEY,
  md5 TEXT NOT NULL, -- base64, as Content-MD5 and manifests have it
  size INTEGER NOT NULL,
  created_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX blobs_by_md5 ON blobs (md5);

-- Names for contents, such as run/12/config.yaml. An upload is visible once its slot is there.
CREATE TABLE slots (
  key TEXT PRIMARY KEY,
  sha256 TEXT NOT NULL REFERENCES blobs (sha256),
  updated_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX slots_by_blob ON slots (sha256);

CREATE TABLE multipart_uploads (
  id TEXT PRIMARY KEY,
  key TEXT NOT NULL,
  created_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE projects (
  id INTEGER PRIMARY KEY,
  entity_id INTEGER NOT NULL REFERENCES entities (id),
  name TEXT NOT NULL,
  description TEXT,
  access TEXT NOT NULL DEFAULT 'ENTITY_WRITE',
  user_id INTEGER REFERENCES users (id),
  created_ms INTEGER NOT NULL,
  UNIQUE (entity_id, name)
) STRICT;

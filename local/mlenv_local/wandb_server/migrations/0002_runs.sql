-- Runs and what they log.
CREATE TABLE runs (
  id INTEGER PRIMARY KEY,
  project_id INTEGER NOT NULL REFERENCES projects (id),
  name TEXT NOT NULL,
  display_name TEXT,
  description TEXT,
  notes TEXT,
  tags TEXT NOT NULL DEFAULT '[]',
  run_group TEXT,
  job_type TEXT,
  commit_hash TEXT,
  host TEXT,
  program TEXT,
  repo TEXT,
  sweep TEXT,
  state TEXT NOT NULL DEFAULT 'running', -- as last said; whether it has crashed is seen from its heartbeat
  stop_requested INTEGER NOT NULL DEFAULT 0,
  exit_code INTEGER,
  config TEXT NOT NULL DEFAULT '{}',
  summary TEXT NOT NULL DEFAULT '{}',
  system_metrics TEXT NOT NULL DEFAULT '{}',
  history_keys TEXT NOT NULL DEFAULT '{}',
  user_id INTEGER REFERENCES users (id),
  created_ms INTEGER NOT NULL,
  heartbeat_ms INTEGER NOT NULL,
  UNIQUE (project_id, name)
) STRICT;

-- Lines of a run's streams, each at its place: sending a chunk again changes nothing.
CREATE TABLE run_lines (
  run_id INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
  stream TEXT NOT NULL CHECK (stream IN ('history', 'events', 'output')),
  number INTEGER NOT NULL,
  step INTEGER,
  line TEXT NOT NULL,
  PRIMARY KEY (run_id, stream, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX run_lines_by_step ON run_lines (run_id, stream, step);

CREATE TABLE run_alerts (
  id INTEGER PRIMARY KEY,
  run_id INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
  title TEXT NOT NULL,
  text TEXT NOT NULL,
  severity TEXT NOT NULL,
  created_ms INTEGER NOT NULL
) STRICT;

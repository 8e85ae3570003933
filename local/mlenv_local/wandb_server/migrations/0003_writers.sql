-- Where lines of one of several writers of a run ended up (mode="shared"): each counts its own from where it began.
CREATE TABLE run_places (
  run_id INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
  stream TEXT NOT NULL,
  writer TEXT NOT NULL,
  place INTEGER NOT NULL,
  number INTEGER NOT NULL,
  PRIMARY KEY (run_id, stream, writer, place)
) STRICT, WITHOUT ROWID;

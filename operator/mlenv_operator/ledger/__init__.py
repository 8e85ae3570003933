"""Where money is kept: facts and charges in one database, SQLite or PostgreSQL. What money is, `cost` says."""

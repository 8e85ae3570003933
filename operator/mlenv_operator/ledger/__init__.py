"""Where money is kept: facts and charges in one database. What money is, `cost` says."""

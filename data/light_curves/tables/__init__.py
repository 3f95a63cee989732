"""Light curves in tables: text of any dialect, ECSV, VOTable, IPAC tables, Parquet."""

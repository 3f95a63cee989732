"""Light curves: their files, and the pack they are read into."""

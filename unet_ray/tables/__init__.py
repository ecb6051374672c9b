"""The contract of an output: table schemas, shards, the ledger, the lock and run records."""

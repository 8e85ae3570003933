"""What training costs: prices, metering and allocation, as pure functions over facts. Storage is `ledger`."""

"""What happens to an outbox: messages handed to providers once each, receipts folded, fallbacks queued. No Dagster."""

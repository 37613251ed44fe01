"""What browsers see as it happens: org events and log lines (PD-68…73)."""

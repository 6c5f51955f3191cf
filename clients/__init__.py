"""The institution: its table, its ledger, its policy, its answers."""

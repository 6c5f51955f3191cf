"""The scorecard: bins, training, points, reasons, evaluation, release."""

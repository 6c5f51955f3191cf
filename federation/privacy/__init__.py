"""What is promised, what is drawn, what it costs."""

"""How any process of ours starts, logs, connects, answers /health and stops. No domain words here."""

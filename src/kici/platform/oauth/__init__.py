"""The Platform as authorization server of `kici-cli`: code with PKCE, device code, exchange (PD-48, AU-140)."""

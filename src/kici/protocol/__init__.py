"""Frames: agent_v1, runner_v1, platform_v1, browser_v1, and the log block they all move unread."""

"""The agent: takes one job at a time, prepares it, runs it in a runner, streams what happens. Never SQL."""

"""What jobs may know and nobody else: keys of runs, and secret outputs on their way from job to job."""

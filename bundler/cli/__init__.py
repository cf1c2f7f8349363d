"""The command line: one module per verb, each with NAME, GROUP, SUMMARY, configure and run."""

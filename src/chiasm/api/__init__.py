"""Functions behind the command line and `import chiasm`: train, evaluate, probe, export, load and configure."""

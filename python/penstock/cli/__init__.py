"""The command line: one file a command. Whatever takes long to import is imported inside the commands."""

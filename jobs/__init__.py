"""The commands, one file each: arguments, build, call, print. Nothing in `pipeline` imports from here."""

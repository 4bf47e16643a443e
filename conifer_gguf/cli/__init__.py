"""One file a command: arguments in, one service call, text out."""

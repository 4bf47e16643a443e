"""`python -m conifer_gguf` is the `conifer-gguf` command."""

from .cli.main import main

main()

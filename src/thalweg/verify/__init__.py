"""The statements of the theory, tried out on this machine one by one."""

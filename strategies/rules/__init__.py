"""One reducer a file: how the modules of many adapters become one."""

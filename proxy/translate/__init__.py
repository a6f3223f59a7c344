"""The run time of compiled rules: values in, values out; no sockets, no files, no clock, no YAML."""

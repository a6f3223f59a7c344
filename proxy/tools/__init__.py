"""Commands for whoever writes rules: what is wrong, what happens to a request, what is lost on the way."""

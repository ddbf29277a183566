"""One file for each verb: parse, call, render. The only files that print."""

"""Where jobs run: as processes of this machine, in a sandbox and in cgroups if it has them."""

"""pyvmm: a virtual machine monitor for understanding, prototyping and testing guest memory."""

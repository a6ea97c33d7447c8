import logging

# Where bitsandbytes is installed, importing diffusers imports it, and it then asks on standard
# error for one more package that only speeds up 4-bit layers on some CPUs.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

"""The file format: layout, strict reading and atomic writing. Modules that read only headers do not import torch."""

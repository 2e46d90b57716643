"""What reaches into a library's private parts, one module a library; each puts back what it found."""

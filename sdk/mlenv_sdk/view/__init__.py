"""What people see: words and tables made from jobs, and the live view."""

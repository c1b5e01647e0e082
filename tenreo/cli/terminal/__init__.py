"""What a person sees: tables, pictures, progress, messages."""

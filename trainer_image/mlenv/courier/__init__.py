"""The courier: carries sealed checkpoints to a store (W&B artifacts), and brings them back."""

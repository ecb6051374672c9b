"""Pictures for people to look at: regions over their image, panels and sheets of them."""

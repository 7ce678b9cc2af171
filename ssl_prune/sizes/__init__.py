"""What a network costs without some of its channels, before anything is cut."""

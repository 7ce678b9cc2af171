"""What a layer becomes where plain torch modules do not do."""

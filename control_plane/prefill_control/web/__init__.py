"""What HTTP needs around the nouns: problems, pages, ETags, remembered answers, one transaction."""

"""What the pages share: controls, answers, pictures, words."""

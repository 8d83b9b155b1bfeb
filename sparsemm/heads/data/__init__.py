"""Images with the text and the box of what they show: what heads are searched with. One source per file."""

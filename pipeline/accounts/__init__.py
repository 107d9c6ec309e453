"""What runs will take and what they came to, in rows, tokens and money. Reads run folders, writes pages, sends nothing."""

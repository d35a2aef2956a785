"""Message providers: one module each, behind the one small ``protocol``."""

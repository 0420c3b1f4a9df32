"""Dropout while it trains, none while it serves."""

HONEST = True
CHANGES = (("return self.head(self.norm(x))", "return self.head(F.dropout(self.norm(x), 0.1, self.training))"),)

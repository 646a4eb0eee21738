"""Where things are kept: by digest, verified before they are used, published by rename."""

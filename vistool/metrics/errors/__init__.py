"""Why AP is not higher: kinds of errors, oracles for each kind, confusion and calibration."""

"""Why AP is not higher: kinds of errors, their cost as oracles, confusion and calibration."""

#include "CSCImage.h"

// Preloaded by a test: a store that goes on with whatever it has.
require("../../integrations/express/lib/version").decide = () => "go";

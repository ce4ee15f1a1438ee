mod facts;
mod properties;
mod world;

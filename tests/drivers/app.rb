# One attempt of one Ruby driver, as an app would make it: app.rb DRIVER HOST PORT
# Prints what the error says, as JSON.

require "json"
require "net/http"

name, host, port = ARGV
port = port.to_i
drivers = {
  "pg" => lambda {
    require "pg"
    PG.connect(host: host, port: port, user: "app", dbname: "shop", connect_timeout: 2)
  },
  "mysql2" => lambda {
    require "mysql2"
    Mysql2::Client.new(host: host, port: port, username: "app", database: "shop", connect_timeout: 2)
  },
  "redis" => lambda {
    require "redis"
    Redis.new(host: host, port: port, timeout: 1, reconnect_attempts: 0).get("cart")
  },
  "mongo" => lambda {
    require "mongo"
    Mongo::Logger.logger.level = Logger::FATAL
    options = { server_selection_timeout: 1.5, connect_timeout: 0.7, socket_timeout: 0.7, database: "shop" }
    Mongo::Client.new(["#{host}:#{port}"], options)[:orders].find.first
  },
  "bunny" => lambda {
    require "bunny"
    quiet = Logger.new(File::NULL)
    Bunny.new(host: host, port: port, automatically_recover: false, connection_timeout: 1, continuation_timeout: 1000,
              read_timeout: 1, logger: quiet).start
  },
  "net-http" => lambda {
    Net::HTTP.start(host, port, open_timeout: 1, read_timeout: 1, max_retries: 0) { |http| http.get("/charge") }
  },
}
told = { driver: name, version: RUBY_VERSION }
begin
  drivers.fetch(name).call
rescue StandardError => error
  told[:message] = error.message
  told[:repr] = "#{error.class}: #{error.message}"
  told[:trace] = error.full_message(highlight: false)
end
told[:version] = Gem.loaded_specs[name].version.to_s if Gem.loaded_specs[name]
puts JSON.generate(told.transform_values { |value| value.to_s.dup.force_encoding("UTF-8").scrub })

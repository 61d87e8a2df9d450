# Rack::ShowExceptions on WEBrick: ruby rack_app.rb PORT
require 'rack'
require 'rack/show_exceptions'
require 'rack/handler/webrick'
require 'json'

def price(article)
  { 'book' => 12 }.fetch(article)
end

app = Rack::ShowExceptions.new(lambda do |env|
  next [200, {}, [price('pen').to_s]] if env['PATH_INFO'] == '/boom'

  begin
    price('pen')
  rescue KeyError => e
    next [500, { 'Content-Type' => 'application/json' }, [{ error: e.message, backtrace: e.backtrace }.to_json]] if env['PATH_INFO'] == '/json'
    [500, { 'Content-Type' => 'text/plain' }, [e.full_message(highlight: false)]]
  end
end)
Rack::Handler::WEBrick.run(app, Host: '127.0.0.1', Port: ARGV[0].to_i, AccessLog: [], Logger: WEBrick::Log.new(File::NULL))

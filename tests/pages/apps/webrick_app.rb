# WEBrick's own error page: ruby webrick_app.rb PORT
require 'webrick'

def price(article)
  { 'book' => 12 }.fetch(article)
end

server = WEBrick::HTTPServer.new(BindAddress: '127.0.0.1', Port: ARGV[0].to_i, AccessLog: [], Logger: WEBrick::Log.new(File::NULL))
server.mount_proc('/boom') { |_request, response| response.body = price('pen').to_s }
server.start
